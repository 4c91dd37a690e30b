from llama_factory.text.similar_questions import MAX_EDITS, _numbers, comparable_form, num_edits

NEAR = [
    # English: fillers, spelling, misspelling, contraction, plural
    ("How do I reset the password of my account?", "How do I reset the password of the account?"),
    ("How do I reset the password of my account?", "How do I reset the pasword of my account"),
    ("How do I reset my account password?", "how do i reset account password"),
    ("What is the warranty on the coffee grinder?", "What's the warranty on the coffee grinder?"),
    ("What is the warranty on a coffee grinder?", "What is the warranty on the coffee grinder?"),
    ("Where can I download the latest invoices?", "Where can I download the latest invoice?"),
    ("Which colour does the new kettle come in?", "Which color does the new kettle come in?"),
    ("How should I organise my photo library?", "How should I organize my photo library?"),
    ("How can I track the parcel I ordered?", "How do I track the parcel I ordered?"),
    ("Did you receive the form that I sent?", "Did you recieve the form that I sent?"),
    ("Explain the theory of general relativity", "Explain the theory of general relativty"),
    ("Is the office open on public holidays?", "Is the office open at public holidays?"),
    ("Translate the sentence into French: I see", "Translate the sentence into french - I see"),
    ("Tell me the opening hours of the library", "Tell me opening hours of the library"),
    ("List three advantages of remote working", "List three advantage of remote working"),
    ("So what does the basic subscription cost?", "What does the basic subscription cost?"),
    ("Summarise the following paragraph in a line", "Summarize the following paragraph in a line"),
    ("Can I pay by credit card in the store?", "Can I pay by credit card at the store?"),
    ("Who accommodates guests that arrive late?", "Who accomodates guests that arrive late?"),
    ("Which documents are needed for the visa?", "Which documents is needed for the visa?"),
    ("Can you tell me when the museum is closed?", "Can you tell when the museum is closed?"),
    ("Where can I leave my suitcase overnight?", "Where do I leave my suitcase overnight?"),
    ("What time does the last train leave town?", "What time does the last trian leave town?"),
    # Chinese: particles, polite words, characters written for one another
    (
        "如何在手机上登录我的企业邮箱并修改签名设置？",
        "如何在手机上登陆我的企业邮箱并修改签名设置？",
    ),
    ("我的银行账户被冻结之后应该怎样申请解冻呢？", "我的银行帐户被冻结之后应该怎样申请解冻？"),
    ("请介绍一下公司年假的计算方法和申请流程。", "请介绍公司年假的计算方法和申请流程。"),
    ("购买的商品出现质量问题可以申请退货退款吗？", "购买的商品出现质量问题可以申请退货退款"),
    ("请问冬季供暖从什么时候开始到什么时候结束？", "冬季供暖从什么时候开始到什么时候结束？"),
    (
        "您能告诉我从机场到市中心最方便的交通方式吗？",
        "你能告诉我从机场到市中心最方便的交通方式吗？",
    ),
    ("怎样才能快速地提高自己的英语口语表达水平？", "怎样才能快速的提高自己的英语口语表达水平？"),
    ("孩子发烧超过三天还不退应该怎么处理才好呢？", "孩子发烧超过三天还不退应该怎么处理才好？"),
    ("把下面这段话翻译成英文，并保留原来的格式。", "请把下面这段话翻译成英文并保留原来的格式"),
    (
        "他的性格很象他的父亲，请用这句话写一个故事。",
        "他的性格很像他的父亲，请用这句话写一个故事。",
    ),
    ("新员工入职第一天需要准备哪些材料和证件啊？", "新员工入职第一天需要准备哪些材料和证件？"),
    ("请做一首描写江南春天景色的七言绝句诗歌吧。", "请作一首描写江南春天景色的七言绝句诗歌。"),
    ("公司制订的考勤制度中迟到是怎样进行处罚的？", "公司制定的考勤制度中迟到是怎样进行处罚的？"),
    ("这份合同的有效期到今年年底是否可以续签呢？", "这分合同的有效期到今年年底是否可以续签？"),
    ("解释机器学习中过拟合的概念及其常见解决方法", "解释机器学习中过拟合概念及其常见解决方法"),
    (
        "打印机提示卡纸但是里面没有纸该怎么办呢？请说明",
        "打印机提示卡纸但是里面没有纸该怎么办？说明",
    ),
    ("请问办理护照需要多少个工作日才可以拿到呀？", "请问办理护照需要多少个工作日才可以拿到？"),
    (
        "列举三个保护环境的具体做法并分别说明理由。",
        "请列举三个保护环境的具体做法并分别说明理由",
    ),
    (
        "在 Linux 系统中怎样查看正在运行的进程列表？",
        "在linux系统中怎样查看正在运行的进程列表呢",
    ),
    ("如果忘记了登录密码应该怎样通过手机号找回？", "如果忘记登录密码应该怎样通过手机号找回？"),
]
FAR = [
    # English: the opposite, another name, number, symbol, word
    ("How do I enable two-factor login here?", "How do I disable two-factor login here?"),
    ("How do I turn notifications on for chats?", "How do I turn notifications off for chats?"),
    ("Can I order the meal with the dessert?", "Can I order the meal without the dessert?"),
    ("Which foods can I eat before the surgery?", "Which foods can't I eat before the surgery?"),
    ("Is the device covered by the guarantee?", "Isn't the device covered by the guarantee?"),
    ("What is the capital city of Austria today?", "What is the capital city of Australia today?"),
    ("What is the official language of Iran now?", "What is the official language of Iraq now?"),
    ("When is the branch in Leeds open on Monday?", "When is the branch in Leeds open on Sunday?"),
    ("How much is the plan for up to 5 users?", "How much is the plan for up to 50 users?"),
    ("What changed in version 2.1 of the app?", "What changed in version 2.2 of the app?"),
    ("Compute the value of 12 + 30 step by step", "Compute the value of 12 - 30 step by step"),
    ("Which benefits belong to the plan A here?", "Which benefits belong to the plan B here?"),
    ("How do I import contacts from a file?", "How do I export contacts from a file?"),
    ("Is nitrate dangerous in drinking water?", "Is nitrite dangerous in drinking water?"),
    ("What are the duties of the employer here?", "What are the duties of the employee here?"),
    ("Describe macroeconomics in two sentences", "Describe microeconomics in two sentences"),
    ("What is the maximum order value allowed?", "What is the minimum order value allowed?"),
    ("Write a short poem about the old man", "Write a short poem about the old woman"),
    ("Explain how the reaction increases heat", "Explain how the reaction decreases heat"),
    ("How do I sort the list in ascending order", "How do I sort the list in descending order"),
    ("Where do I find my contact details here?", "Where do I find my contract details here?"),
    ("Who was Martin in the novel you read?", "Who was Marvin in the novel you read?"),
    ("Are flights to Paris refundable this year?", "Are flights from Paris refundable this year?"),
    ("Who is allowed to enter the building?", "Who is not allowed to enter the building?"),
    ("Is the contract usually legally binding?", "Is the contract unusually legally binding?"),
    ("Is the temperature -5 degrees outside?", "Is the temperature 5 degrees outside?"),
    ("Write a hello world program in C++ please", "Write a hello world program in C# please"),
    ("What did the carpenter put in the table?", "What did the carpenter put on the table?"),
    ("Will the delivery of the parcel be in time?", "Will the delivery of the parcel be on time?"),
    ("Can I park my car in front of the house?", "Do I park my car in front of the house?"),
    ("Whom should I ask to call me about a loan?", "Whom should I ask to call about a loan?"),
    ("Label the review: the film was so good", "Label the review: the film was not good"),
    ("Is the use of the drug legal in Spain now?", "Is the use of the drug illegal in Spain now?"),
    ("short question?", "short questoin?"),
    # Chinese: the opposite, another name, number, character
    (
        "购买的商品出现质量问题之后能申请退货退款吗？",
        "购买的商品出现质量问题之后不能申请退货退款吗？",
    ),
    ("在这种情况下员工可以向公司申请提前退休吗？", "在这种情况下员工不可以向公司申请提前退休吗？"),
    ("怎样在手机上开启这个应用程序的消息通知功能", "怎样在手机上关闭这个应用程序的消息通知功能"),
    ("今天在这个交易平台上买一百股股票手续费多少", "今天在这个交易平台上卖一百股股票手续费多少"),
    ("请介绍一下湖南省的主要旅游景点和特色美食。", "请介绍一下湖北省的主要旅游景点和特色美食。"),
    ("从上海坐高铁到北京需要多长时间要花多少钱？", "从北京坐高铁到上海需要多长时间要花多少钱？"),
    ("公司第一季度的销售额与去年同期相比怎么样？", "公司第二季度的销售额与去年同期相比怎么样？"),
    ("工作满10年的员工每年可以享受多少天的年假？", "工作满20年的员工每年可以享受多少天的年假？"),
    ("他为什么在小说的最后选择离开自己的家乡呢？", "她为什么在小说的最后选择离开自己的家乡呢？"),
    ("如何提高室内空气的湿度让人感觉更加舒适呢？", "如何降低室内空气的湿度让人感觉更加舒适呢？"),
    ("患有高血压的老年人在饮食方面需要注意什么？", "患有低血压的老年人在饮食方面需要注意什么？"),
    ("这个项目在启动之前需要完成哪些审批的手续？", "这个项目在启动之后需要完成哪些审批的手续？"),
    ("请把下面这一段文字从中文翻译成流利的英文。", "请把下面这一段文字从英文翻译成流利的中文。"),
    ("合同中甲方需要承担哪些责任请逐条列出说明。", "合同中乙方需要承担哪些责任请逐条列出说明。"),
    ("没有收到验证码的时候应该怎样联系客服处理？", "收到验证码的时候应该怎样联系客服处理这事？"),
    ("未成年人是否可以独自乘坐飞机前往其他城市？", "成年人是否可以独自乘坐飞机前往其他的城市？"),
    ("汽车在左转弯的时候应该让行哪些方向的车辆？", "汽车在右转弯的时候应该让行哪些方向的车辆？"),
    ("这种药物应该在饭前服用还是在睡觉之前服用？", "这种药物应该在饭后服用还是在睡觉之前服用？"),
    ("公司男性员工的陪产假一共有多少天怎么申请？", "公司女性员工的陪产假一共有多少天怎么申请？"),
    ("输入电压过高会对家用电器造成怎样的损害呢？", "输出电压过高会对家用电器造成怎样的损害呢？"),
    ("非会员用户能否参加本次商城周年庆优惠活动？", "会员用户能否参加本次商城的周年庆优惠活动？"),
    ("这笔订单的收货地址在哪里可以修改成别的？", "这笔订单的发货地址在哪里可以修改成别的？"),
    ("怎样修改密码？", "怎样改密码？"),
]


def test_wordings_that_ask_the_same_are_near():
    edits = [(one, num_edits(one, other), num_edits(other, one)) for one, other in NEAR]
    assert [each for each in edits if each[1] is None or not 0 <= each[1] <= MAX_EDITS] == []
    assert [each for each in edits if each[1] != each[2]] == []


def test_wordings_a_few_characters_apart_that_ask_something_else_are_not_near():
    near = [
        (one, other)
        for one, other in FAR
        if num_edits(one, other) is not None or num_edits(other, one) is not None
    ]
    assert near == []


def test_case_width_spacing_and_punctuation_are_ignored():
    pairs = [
        ("How long is it?", "  how  LONG is it "),
        ("５０％ 折扣吗？", "50%折扣吗"),
        ("1,000 items", "1000 items"),
        ("don't stop", "dont stop…"),
        ("Is it (really) **bold**?", "is it really bold"),
        ("state-of-the-art", "state of the art"),
    ]
    assert [one for one, other in pairs if comparable_form(one) != comparable_form(other)] == []


def test_marks_with_a_meaning_stay():
    pairs = [
        ("1.5", "15"),
        ("-5", "5"),
        ("温度是-5度", "温度是5度"),
        ("10 - 5", "105"),
        ("1 2", "12"),
        ("10²", "102"),
        ("5%", "5"),
        ("C# language", "C language"),
        ("C++", "C"),
        (":)", ":("),
        ("👍", "👎"),
        ("a > b", "a < b"),
        ("12:30", "1230"),
    ]
    assert [one for one, other in pairs if comparable_form(one) == comparable_form(other)] == []


def test_numbers_are_compared_in_one_spelling():
    assert _numbers("1,000 of 2.5 and ５") == ["1000", "2.5", "5"]
    assert _numbers("from -5 to ５%") == ["−5", "5%"]


def test_two_long_texts_are_compared_whole():
    long = "The quick brown fox jumps over the lazy dog. " * 2000
    assert num_edits(long + "Please stop.", long + "stop.") is None
    assert num_edits(long + "a dog", long + "the dog") == 3
